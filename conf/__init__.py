"""Training configurations; in the installed package `nemo_audio_restore.conf`."""
