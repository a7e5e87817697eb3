"""Call one function of a benchmark file in this fresh process and print the number it returns.

    python peak.py BENCH_FILE FUNCTION JSON_ARGUMENTS
"""

import json
import sys
from pathlib import Path

from run import load

if __name__ == "__main__":
    bench, function, arguments = sys.argv[1:]
    print(int(getattr(load(Path(bench)), function)(*json.loads(arguments))))
