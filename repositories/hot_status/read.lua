-- Return hot statuses that may be believed.
--
-- KEYS[1]    the bookkeeping hash: epoch, run, seq, and "w:<workspace>" -> the seq of its latest invalidation
-- KEYS[2..]  status hashes
-- ARGV[1]    an epoch to begin, if there is none or this server is another than the one it was begun on
-- ARGV[2..]  the fields wanted
-- Returns    {epoch, seq, then for each key its fields' values, or nil}
--#include epoch
local answer = {epoch, tostring(seq)}
local wanted = {'epoch', 'seq', 'workspace_id'}
for place = 2, #ARGV do
    wanted[#wanted + 1] = ARGV[place]
end
for place = 2, #KEYS do
    -- pcall: what somebody else put under this key may be no hash.
    local found = redis.pcall('HMGET', KEYS[place], unpack(wanted))
    answer[place + 1] = false
    if not found.err and found[1] == epoch then
        local written = tonumber(found[2]) or -1
        local invalidated = false
        if seq > written and found[3] then
            invalidated = tonumber(redis.call('HGET', KEYS[1], 'w:' .. found[3]) or '0') > written
        end
        if not invalidated then
            answer[place + 1] = {unpack(found, 4)}
        end
    end
end
return answer
