"""Stand-in while being written."""
import click


@click.command()
def check() -> None:
    """Soon."""
