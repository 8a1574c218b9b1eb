"""What a process that trains beside the one that plays the rounds is told, and what it sends back."""
