#version 330 core
// INST_M_LOC is filled in by pyrender's program cache: the location of its (unused) matrix of instances.
layout(location = 0) in vec3 position;

uniform mat4 world_to_clip;

flat out int corner;

void main()
{
    gl_Position = world_to_clip * vec4(position, 1.0);
    corner = gl_VertexID;
}
