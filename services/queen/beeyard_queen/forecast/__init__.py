"""What can be done with the forecast without a queen."""
