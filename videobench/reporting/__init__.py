"""What people see of a run: log lines, TensorBoard, the page of a run."""
