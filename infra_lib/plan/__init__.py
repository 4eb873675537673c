"""What a study costs before it runs: memory, hours and disk, from the model's configuration alone."""
