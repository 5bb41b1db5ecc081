#!/usr/bin/env python3
import argparse
import asyncio
import dataclasses
import datetime as dt
import decimal
import hashlib
import logging

parser = argparse.ArgumentParser()
parser.add_argument("object")
logging.info("%s %s %s", dataclasses, dt, decimal)
asyncio.run(asyncio.sleep(0))
print(parser.parse_args().object, hashlib.sha256(b"x").hexdigest())
