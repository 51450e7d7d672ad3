"""Make deploy/requirements.lock of the report of `pip install --dry-run --report -`: versions with the hashes of their
wheels, which `pip install --require-hashes` compares. For x86_64 and Python 3.11, as in the image.

Torch and what comes with it are left out: which build is wanted (CPU, CUDA) is up to whoever builds the image.
"""

from __future__ import annotations

import json
import sys

LEFT_OUT = ("tilecascade", "torch", "torchvision", "triton", "setuptools")


def main() -> None:
    """Read the report from standard input and print the lines."""
    lines = []
    for package in json.load(sys.stdin)["install"]:
        name, version = package["metadata"]["name"].lower(), package["metadata"]["version"]
        if name in LEFT_OUT or name.startswith(("nvidia-", "cuda-")):
            continue
        lines.append(f"{name}=={version} --hash=sha256:{package['download_info']['archive_info']['hashes']['sha256']}")
    print("# The wheels of the image, x86_64 and Python 3.11. Made by `make lock`.")
    print("\n".join(sorted(lines)))


if __name__ == "__main__":
    main()
