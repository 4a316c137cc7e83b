"""Examples: one file each, to read and to copy from."""
