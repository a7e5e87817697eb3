"""Call ``FUNCTION(*ARGUMENTS)`` of a benchmark file in this fresh process, print its number.

The command line is ``python peak.py FILE FUNCTION ARGUMENTS``, the last one a JSON list.
"""

import json
import sys
from pathlib import Path

from run import load

if __name__ == "__main__":
    bench, function, arguments = sys.argv[1:]
    print(int(getattr(load(Path(bench)), function)(*json.loads(arguments))))
