-- ARGV: ID of the rebuilding, now, how long it may pause, units of the peer, runs as they are read.
if redis.call('HGET', level, 'rebuilding') ~= ARGV[1] then return 0 end
local mine = 0
for i = 5, #ARGV do
  local run = ARGV[i]
  redis.call('SADD', seen, string.sub(run, 1, ID_BYTES))
  if is_run(run) then
    redis.call('RPUSH', fresh, run)
    mine = mine + units_of(run)
  end
end
redis.call('HINCRBY', level, 'fresh_mine', string.format('%d', mine))
redis.call('HINCRBY', level, 'fresh_theirs', ARGV[4])
redis.call('HSET', level, 'rebuilding_until', string.format('%d', tonumber(ARGV[2]) + tonumber(ARGV[3])))
return 1
