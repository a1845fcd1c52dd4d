"""Draws the plots of experiments again from their JSON, where matplotlib is (the machine that measured may not have it):
python3 bench/experiments/plot.py bench/results/e1_cuda.json …   writes e1_cuda.svg … beside them"""
import glob
import importlib
import json
import os
import sys

from common import draw


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    for path in sys.argv[1:]:
        with open(path) as file:
            result = json.load(file)
        script = glob.glob(os.path.join(here, result["experiment"] + "_*.py"))[0]
        draw(importlib.import_module(os.path.basename(script)[:-3]).plot, result, path[:-5] + ".svg")


if __name__ == "__main__":
    main()
