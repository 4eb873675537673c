"""Where examples come from: the generated small world, data sets, and anybody's files."""
