-- ARGV: ID of the rebuilding, now, how long it may pause, since when the caller doubts the pool.
-- Returns 0 when another rebuilding is under way, or began after the doubt came up.
local id, now, pause, doubted = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Whatever is not of the type it should be is not ours.
local types = {
  [line] = 'list', [opened] = 'hash', [level] = 'hash', [reserved] = 'hash', [asked] = 'zset', [given] = 'hash', [due] = 'zset',
  [received] = 'hash', [policy] = 'hash',
}
for key, wanted in pairs(types) do
  local is = redis.call('TYPE', key).ok
  if is ~= 'none' and is ~= wanted then redis.call('DEL', key) end
end
if is_rebuilding(now) then return 0 end
if is_built() and tonumber(redis.call('HGET', level, 'built') or 0) > doubted then return 0 end
redis.call('DEL', fresh, since, seen, received)
redis.call('HSET', level, 'rebuilding', id, 'rebuilding_since', ARGV[2], 'rebuilding_until', string.format('%d', now + pause),
  'fresh_mine', '0', 'fresh_theirs', '0')
return 1
