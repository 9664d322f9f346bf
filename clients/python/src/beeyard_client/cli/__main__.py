from beeyard_client.cli import main

main()
