"""HTTP over retrievers: the application, what goes over the wire, and the page."""
