"""`python -m hf_cap` is `hf-cap`; `accelerate launch -m hf_cap train ...` goes through here."""

import sys

from hf_cap.cli import main

if __name__ == "__main__":
    sys.exit(main())
