"""``python -m llmct_bench``: the command line."""

from llmct_bench.cli import main

if __name__ == "__main__":
    main()
