"""What one bot does about a message: who may ask, which conversation, which request, and the reply on its way."""
