#version 330 core
// Writes the first corner of the face that a sample sees, as an integer: exact for any number of vertices.
// Not gl_PrimitiveID: with it Mesa's software renderer splits every face, which takes a third more time.
flat in int corner;

uniform int bridge;

out int seen;

void main()
{
    seen = bridge == 0 ? corner : -2 - corner;
}
