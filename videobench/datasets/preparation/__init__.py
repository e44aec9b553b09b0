"""What happens to a data set once, before training: checking files, encoding them anew, making list files."""
