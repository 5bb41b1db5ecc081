"""What any room may use: running programs, the cache, data files, clang."""
