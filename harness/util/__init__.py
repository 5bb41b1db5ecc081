"""For every room: running programs, the cache, data files, clang, errno names."""
