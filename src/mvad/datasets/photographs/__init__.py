"""Photographs of parts from several sides, as people keep them: layouts, pictures of any kind, framing."""
