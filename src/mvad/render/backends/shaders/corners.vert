#version 330 core
// pyrender's program cache defines INST_M_LOC, the location of its (unused) instance matrix.
layout(location = 0) in vec3 position;

uniform mat4 world_to_clip;

flat out int corner;

void main()
{
    gl_Position = world_to_clip * vec4(position, 1.0);
    corner = gl_VertexID;
}
