-- Messages are looked for neighbour by neighbour, and those nobody wants to know of any more by themselves.
CREATE INDEX "neighbour_message_neighbour_next_attempt_at_idx" ON "neighbour_message"("neighbour", "next_attempt_at");
CREATE INDEX "neighbour_message_expires_at_idx" ON "neighbour_message"("expires_at");
DROP INDEX "neighbour_message_next_attempt_at_idx";
