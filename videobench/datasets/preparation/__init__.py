"""What happens to a data set once, before training: making list files, checking files, making them smaller."""
