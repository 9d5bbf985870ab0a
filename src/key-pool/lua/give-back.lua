-- Units taken before go to the head of the line. ARGV: process, runs.
if not is_built() then return false end
local process = ARGV[1]
local state = read_state()
local run = redis.call('HGET', opened, process)
if run then
  redis.call('LPUSH', line, run)
  redis.call('HDEL', opened, process)
end
for i = #ARGV, 2, -1 do
  redis.call('LPUSH', line, ARGV[i])
  state.mine = state.mine + units_of(ARGV[i])
  state.taken = state.taken - units_of(ARGV[i])
end
write_state(state)
return 1
