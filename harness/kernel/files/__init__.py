"""What is in a kernel's files, and how such files are brought and unpacked."""
