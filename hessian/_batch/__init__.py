"""One batch: read, proved, planned and carried out, whole or in parts of its samples."""
