#version 330 core
// Writes the first corner of the face that a sample sees, as an integer: exact for any number of vertices.
// Not gl_PrimitiveID: for that alone Mesa's software renderer takes every face apart, a third more time.
flat in int corner;

uniform int bridge;

out int seen;

void main()
{
    seen = bridge == 0 ? corner : -2 - corner;
}
