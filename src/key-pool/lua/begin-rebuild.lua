-- ARGV: ID of the rebuilding, now, how long it may pause, since when the caller doubts the pool,
-- '1' when it met something unusable there.
-- Returns 0 when another rebuilding is under way, or began after the doubt came up.
local id, now, pause, doubted, damaged = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
-- Nothing of a pool with something unusable in it is worth keeping, except what was just written: how it is to be shared.
if damaged == '1' then redis.call('DEL', line, opened, level, reserved, asked, given, due, received, fresh, since, seen) end
if is_rebuilding(now) then return 0 end
local built = tonumber(redis.call('HGET', level, 'built') or 0)
if built > doubted and built <= now then return 0 end
redis.call('DEL', fresh, since, seen, received)
redis.call('HSET', level, 'rebuilding', id, 'rebuilding_since', ARGV[2], 'rebuilding_until', string.format('%d', now + pause),
  'fresh_mine', '0', 'fresh_theirs', '0')
return 1
