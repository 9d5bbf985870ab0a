-- Units come in. ARGV: now, 'new' or 'loan', units of the peer, a run ('' for none).
local now, source, theirs, run = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4]
if is_rebuilding(now) then redis.call('RPUSH', since, cmsgpack.pack({ run, theirs })) end
if not is_built() then return false end
local state = read_state()
state.theirs = state.theirs + theirs
if #run > 0 then
  redis.call('RPUSH', line, run)
  state.mine = state.mine + units_of(run)
  state.offered = state.offered + units_of(run)
end
if source == 'new' then share_out(state, now) end
write_state(state)
return 1
