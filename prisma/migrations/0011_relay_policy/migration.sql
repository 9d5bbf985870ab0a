-- How the keys of a request had to be relayed at least, so that the same request, repeated, is not given less.
ALTER TABLE "assignment" ADD COLUMN "relay_policy" JSONB;
