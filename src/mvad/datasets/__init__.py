"""What is on disk: raw readers, the generator, rendered folders and shards."""
