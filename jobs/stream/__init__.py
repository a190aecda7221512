"""What keeps up with Kafka: real-time sequences, landing, replay."""
