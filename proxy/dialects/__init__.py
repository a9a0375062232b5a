"""Languages: pure functions on dict and bytes. One speaker per file, none imports another."""
