"""`python -m lmms_digits` prints the folder to give lmms-eval as `--include_path`, and builds it the first time."""

from . import tasks_folder

if __name__ == "__main__":
    print(tasks_folder())
