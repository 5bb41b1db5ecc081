import sys

print("trying", sys.argv[1])
raise ValueError("no such thing")
