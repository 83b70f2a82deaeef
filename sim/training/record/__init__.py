"""What a run leaves behind and shows: tables, files, progress, TensorBoard."""
