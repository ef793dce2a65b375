"""One message-passing backbone per file; the file's name is the backbone's."""
