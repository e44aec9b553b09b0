"""What people do with trained weights: predict files, follow streams, export to other runtimes."""
