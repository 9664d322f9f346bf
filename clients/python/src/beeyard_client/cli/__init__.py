"""The command line of Beeyard: `beeyard` starts services, asks a queen, and shows what is going on."""

from beeyard_client.cli.app import app, main

__all__ = ["app", "main"]
