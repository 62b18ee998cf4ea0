"""Stand-in while being written."""
import click


@click.command()
def new() -> None:
    """Soon."""
