import sys
import time

print("attached", sys.argv[1], flush=True)
while True:
    time.sleep(1)
