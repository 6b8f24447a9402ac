#version 330 core
// Writes which face a sample sees, as an integer: exact for any number of faces.
out int face;

void main()
{
    face = gl_PrimitiveID;
}
