"""Results as objects: short in print, tables and pictures, files, other devices."""
