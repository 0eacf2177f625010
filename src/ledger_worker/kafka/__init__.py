"""From settings to consumers, producers and topics; nothing about entitlements may live here."""
