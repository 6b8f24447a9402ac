"""What joins rendering, shards and models: workspaces, trainings, predictions, repair. The command line calls it."""
