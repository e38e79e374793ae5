-- Note what a fingerprint's tower gives for the probe.
INSERT INTO probes (fingerprint, device, software, vector) VALUES ($fingerprint, $device, $software, $vector);
