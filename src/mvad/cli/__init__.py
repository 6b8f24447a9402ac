"""Command line: each module defines one command, which parses options, calls the library and shows progress."""
