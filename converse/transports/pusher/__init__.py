"""The Pusher Channels protocol, version 7: Laravel Echo and pusher-js connect unmodified."""
