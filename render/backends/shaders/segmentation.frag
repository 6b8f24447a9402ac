#version 330 core
// Writes which face a pixel's centre sees: 1 + face, as three bytes. 0 is nothing.
// `color` is pyrender's per-node colour in SEG mode; it carries the number of the node's first face.
uniform vec3 color;

out vec4 frag_color;

void main()
{
    ivec3 first = ivec3(round(color * 255.0));
    int face = first.r + (first.g << 8) + (first.b << 16) + gl_PrimitiveID + 1;
    frag_color = vec4(float(face & 255), float((face >> 8) & 255), float((face >> 16) & 255), 255.0) / 255.0;
}
